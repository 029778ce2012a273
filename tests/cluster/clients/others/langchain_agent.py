# requires: langchain==1.5.2 langchain-openai==1.7.4
"""A LangChain agent of two turns: a chat with a tool that the model may call, then another turn over the same history."""
import os
import sys

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", model=os.environ["MODEL_NAME"], temperature=0, seed=7,
                   max_tokens=24, max_retries=0, timeout=300, stream_usage=True)


@tool
def capital(country: str) -> str:
    """The capital of a country."""
    return "Tokyo"


# Without tools: whatever the agent's loop sends must be understood.
agent = create_agent(model, tools=[], system_prompt="You answer in one short sentence.")
first = agent.invoke({"messages": [HumanMessage("What is the capital of Japan?")]})
assert "Tokyo" in first["messages"][-1].content, first
second = agent.invoke({"messages": first["messages"] + [HumanMessage("And what language is spoken there?")]})
assert len(second["messages"]) == 4 and second["messages"][-1].content, second
assert second["messages"][-1].usage_metadata["output_tokens"] > 0

# A history with a tool call in it, as agents send it: the assistant's content is empty. A template that has no place
# for tools says so; a server that drops them without a word would not.
history = [HumanMessage("What is the capital of Japan?"),
           AIMessage("", tool_calls=[{"name": "capital", "args": {"country": "Japan"}, "id": "call_1"}]),
           ToolMessage("Tokyo", tool_call_id="call_1")]
try:
    answer = model.bind_tools([capital]).invoke(history)
    print("with tools:", repr(answer.content))
except Exception as e:
    assert "tools" in str(e) or "template" in str(e), e
    print("with tools: refused:", e)
# Streams, with usage at the end.
chunks = list(model.stream([HumanMessage("Count to three.")]))
assert "".join(c.content for c in chunks) and any(c.usage_metadata for c in chunks), chunks
print("langchain: ok")
