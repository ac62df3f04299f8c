"""The README's table of LangGraph's names is complete and true.

`NAMES` is what LangGraph 1.2.22 has: the names of its modules and classes, with the parameters of what is called or
made. They were recorded, since LangGraph is no dependency; a new version of it means a new record and new rows.

In the table "yes" means: the name is here and takes all of LangGraph's parameters. "differently": the name is here, or
the remark begins with what is here in its place; parameters that are not taken stand after "without". "no": it
is not here.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import durable_graph
from durable_graph.session import Options

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

NAMES = {
    "langgraph.graph": """
        CompiledStateGraph END MessageGraph() MessagesState REMOVE_ALL_MESSAGES START
        StateGraph(state_schema,context_schema,input_schema,output_schema) add_messages(left,right)
    """,
    "StateGraph": """
        add_conditional_edges(source,path,path_map) add_edge(start_key,end_key)
        add_node(node,action,defer,metadata,input_schema,retry_policy,cache_policy,error_handler,destinations,timeout,trace_policy)
        add_sequence(nodes)
        compile(checkpointer,cache,store,interrupt_before,interrupt_after,debug,name,transformers)
        set_conditional_entry_point(path,path_map) set_entry_point(key) set_finish_point(key)
        set_node_defaults(retry_policy,cache_policy,error_handler,timeout) validate(interrupt)
    """,
    "CompiledStateGraph": """
        InputType OutputType abatch(inputs,config,return_exceptions)
        abatch_as_completed(inputs,config,return_exceptions) abulk_update_state(config,supersteps)
        aclear_cache(nodes) aget_graph(config,xray) aget_state(config,subgraphs)
        aget_state_history(config,filter,before,limit) aget_subgraphs(namespace,recurse)
        ainvoke(input,config,context,stream_mode,print_mode,output_keys,interrupt_before,interrupt_after,durability,control,version)
        as_tool assign()
        astream(input,config,context,stream_mode,print_mode,output_keys,interrupt_before,interrupt_after,durability,control,subgraphs,debug,version)
        astream_events astream_log atransform(input,config) attach_branch attach_edge attach_node
        aupdate_state(config,values,as_node,task_id) batch(inputs,config,return_exceptions)
        batch_as_completed(inputs,config,return_exceptions) bind() bulk_update_state(config,supersteps) cache
        cache_policy checkpointer clear_cache(nodes) config config_schema(include) config_specs context_schema
        copy get_config_jsonschema(include) get_context_jsonschema() get_graph(config,xray)
        get_input_jsonschema(config) get_input_schema(config) get_name(suffix,name)
        get_output_jsonschema(config) get_output_schema(config) get_prompts get_state(config,subgraphs)
        get_state_history(config,filter,before,limit) get_subgraphs(namespace,recurse) input_schema
        invoke(input,config,context,stream_mode,print_mode,output_keys,interrupt_before,interrupt_after,durability,control,version)
        map() name output_schema pick(keys) pipe(name) retry_policy step_timeout store
        stream(input,config,context,stream_mode,print_mode,output_keys,interrupt_before,interrupt_after,durability,control,subgraphs,debug,version)
        stream_channels stream_channels_asis stream_channels_list stream_eager stream_events stream_mode
        transform(input,config) update_state(config,values,as_node,task_id) validate() with_alisteners
        with_config(config) with_fallbacks with_listeners with_retry with_types
    """,
    "langgraph.types": """
        All CachePolicy(key_func,ttl) CheckpointPayload CheckpointStreamPart CheckpointTask Checkpointer
        Command(graph,update,resume,goto) CustomStreamPart DebugPayload DebugStreamPart Durability
        GraphOutput(value,interrupts) Interrupt(value,id,response_schema) MessagesStreamPart
        Overwrite(value,type) PregelExecutableTask PregelTask(id,name,path,error,interrupts,state,result)
        RetryPolicy(initial_interval,backoff_factor,max_interval,max_attempts,jitter,retry_on)
        Send(node,arg,timeout)
        StateSnapshot(values,next,config,metadata,created_at,parent_config,tasks,interrupts)
        StateUpdate(values,as_node,task_id) StreamMode StreamPart StreamWriter TaskPayload TaskResultPayload
        TasksStreamPart TimeoutPolicy(run_timeout,idle_timeout,refresh_on) TracePolicy UpdatesStreamPart
        ValuesStreamPart ensure_valid_checkpointer interrupt(value,response_schema) omit_payload
    """,
    "langgraph.func": """
        entrypoint(checkpointer,store,cache,context_schema,cache_policy,retry_policy,timeout)
        task(name,retry_policy,cache_policy,timeout)
    """,
    "langgraph.config": """
        get_config() get_store() get_stream_writer()
    """,
    "langgraph.runtime": """
        BaseUser()
        ExecutionInfo(checkpoint_id,checkpoint_ns,task_id,thread_id,run_id,node_attempt,node_first_attempt_time)
        RunControl() Runtime(context,store,stream_writer,heartbeat,previous,execution_info,server_info,control)
        ServerInfo(assistant_id,graph_id,user) get_runtime(context_schema)
    """,
    "Runtime": """
        context control drain_reason drain_requested execution_info heartbeat merge(other) override()
        patch_execution_info() previous server_info store stream_writer
    """,
    "langgraph.errors": """
        EmptyChannelError EmptyInputError ErrorCode GraphBubbleUp GraphDrained GraphInterrupt
        GraphRecursionError InvalidUpdateError NodeCancelledError NodeError(node,error) NodeInterrupt
        NodeTimeoutError ParentCommand TaskNotFound UnknownInterruptError is_invalid_resume
    """,
    "langgraph.constants": """
        CONF CONFIG_KEY_CHECKPOINTER END START TAG_HIDDEN TAG_NOSTREAM TASKS
    """,
    "langgraph.managed": """
        IsLastStep RemainingSteps
    """,
    "langgraph.channels": """
        AnyValue BaseChannel BinaryOperatorAggregate DeltaChannel EphemeralValue LastValue LastValueAfterFinish
        NamedBarrierValue NamedBarrierValueAfterFinish Topic UntrackedValue
    """,
    "langgraph.prebuilt": """
        InjectedState InjectedStore ToolCallTransformer ToolNode ToolRuntime ValidationNode create_react_agent
        tools_condition
    """,
    "langgraph.store": """
        BaseStore Embeddings GetOp InMemoryStore Item ListNamespacesOp MatchCondition NamespaceMatchType
        NamespacePath Op PutOp SearchOp ensure_embeddings get_text_at_path tokenize_path validate_op_namespace
    """,
}


class Entry(NamedTuple):
    here: str
    remark: str


def recorded(group: str) -> dict[str, set[str]]:
    """{name: its parameters}"""
    found = [re.fullmatch(r"(\w+)(?:\((.*)\))?", word) for word in NAMES[group].split()]
    return {match[1]: set(filter(None, (match[2] or "").split(","))) for match in found if match}


def table(group: str) -> list[tuple[list[str], Entry]]:
    """The rows below the group's heading: names, and what is said of them."""
    _, heading, rest = README.partition(f"\n**{group}**")
    assert heading, f"the README has no table of {group}"
    block = re.search(r"\n\n((?:\|.*\n)+)", rest)
    assert block
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block[1].splitlines()[2:]]
    return [(re.findall(r"`(\w+)`", names), Entry(here, remark.strip(" |"))) for names, here, remark in cells]


ROWS = [(group, name, entry) for group in NAMES for names, entry in table(group) for name in names]
each_row = pytest.mark.parametrize(("group", "name", "entry"), ROWS, ids=[f"{group}-{name}" for group, name, _ in ROWS])


def place(group: str) -> Any:
    classes = {"StateGraph": "StateGraph", "CompiledStateGraph": "CompiledGraph", "Runtime": "Runtime"}
    return getattr(durable_graph, classes[group]) if group in classes else durable_graph


def parameters(thing: Any) -> set[str]:
    """What it takes by name."""
    found = inspect.signature(thing).parameters
    more = any(p.kind is p.VAR_KEYWORD for p in found.values())
    return set(found) | (set(Options.__annotations__) if more else set())


@pytest.mark.parametrize("group", NAMES)
def test_each_name_has_one_row(group: str) -> None:
    names = [name for names, _ in table(group) for name in names]
    assert sorted(names) == sorted(recorded(group))


@each_row
def test_what_the_table_says_is_true(group: str, name: str, entry: Entry) -> None:
    there = hasattr(place(group), name)
    if entry.here == "no":
        assert not there, f"{name} is here"
        return
    assert entry.here in ("yes", "differently")
    instead = re.match(r"`(\w+)`", entry.remark)
    if entry.here == "differently" and not there and instead:
        assert hasattr(durable_graph, instead[1]) or hasattr(place(group), instead[1])
        return
    assert there, f"{name} is not here"
    wanted = recorded(group)[name]
    missing = wanted - parameters(getattr(place(group), name)) if wanted else set()
    without = re.search(r"without ((?:`\w+`(?:, | and )?)+)", entry.remark)
    assert missing == set(re.findall(r"`(\w+)`", without[1]) if without else ())
    assert not missing or entry.here == "differently"
