"""What durability costs: this library beside the least it can cost, and beside its peers.

measure.py      contests, targets, and the interleaved measuring of them
works.py        the graphs that are run, drawn the same for this library and for LangGraph
places.py       fresh databases, and how large they have become
bare.py         the limits: loops that insert and commit the same bytes, and nothing else
ours.py, langgraph_peer.py, dbos_peer.py, burr_peer.py    who takes part
programs.py     what runs in processes of its own
contests.py     the table: what is measured, who takes part, what is to be reached
parts.py        where the time of one step goes
report.py       the table, the JSON and the plot
"""
