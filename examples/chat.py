"""A chat whose messages outlive the process: stop it in any way, start it again, and the conversation goes on.

    python examples/chat.py                                 talk to it; Ctrl-D ends
    python examples/chat.py "My name is Ada" "Who am I?"    say these lines

The bot is a few rules and needs no network. Each line is a run on the thread "chat". A row of the log holds the message
that it adds, however many there were before. Try --thread for another conversation, and `durable-graph replay chat`.
"""

from __future__ import annotations

import argparse
import operator
import re
from collections.abc import Iterator
from typing import Annotated, TypedDict

from durable_graph import END, START, StateGraph


class Message(TypedDict):
    role: str
    content: str


class Chat(TypedDict):
    messages: Annotated[list[Message], operator.add]


def reply(state: Chat) -> Chat:
    said = [message["content"] for message in state["messages"] if message["role"] == "user"]
    return {"messages": [{"role": "bot", "content": answer(said)}]}


def answer(said: list[str]) -> str:
    """What the bot answers to the last line, knowing all that was said."""
    line = said[-1].lower()
    if found := re.search(r"my name is (\w+)", line):
        return f"Hello {found[1].title()}!"
    if "who am i" in line:
        names = re.findall(r"my name is (\w+)", " ".join(said), re.IGNORECASE)
        return f"You are {names[-1].title()}." if names else "You have not told me."
    if "first" in line:
        return f"You began with {said[0]!r}."
    return f"That was line {len(said)}. Tell me your name, or ask who you are or what you said first."


builder = StateGraph(Chat).add_node(reply).add_edge(START, "reply").add_edge("reply", END)


def typed() -> Iterator[str]:
    while True:
        try:
            yield input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", nargs="*")
    parser.add_argument("--thread", default="chat")
    parser.add_argument("--url", help="of the database; by default $DURABLE_GRAPH_URL or durable_graph.db")
    given = parser.parse_args()
    thread = {"thread_id": given.thread}

    with builder.compile(given.url, name="chat") as graph:
        state = graph.get_state(thread)
        if state.values:
            print(f"(So far {len(state.values['messages'])} messages.)")
        if state.next:  # stopped between a line and its answer: the line is in the log
            show(graph.stream(None, thread))
        for line in given.line or typed():
            show(graph.stream({"messages": [{"role": "user", "content": line}]}, thread))


def show(events: Iterator[dict[str, Chat]]) -> None:
    for event in events:
        print(event["reply"]["messages"][0]["content"])


if __name__ == "__main__":
    main()
