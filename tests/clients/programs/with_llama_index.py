"""llama-index: OpenAILike, with a chat, streams, plain text and a tool."""

import json
import sys
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

URL, SMALL, CALLER = sys.argv[1:]
HELLO = [ChatMessage(role="user", content="Hello")]


def made(name: str, **more: Any) -> OpenAILike:
    return OpenAILike(model=name, api_base=f"{URL}/v1", api_key="any", max_retries=0, **more)


def look(a: str) -> str:
    return a


small = made(SMALL, is_chat_model=True, max_tokens=4)
caller = made(CALLER, is_chat_model=True, is_function_calling_model=True)
found = {
    "said": small.chat(HELLO).message.content,
    "streamed": "".join(part.delta or "" for part in small.stream_chat(HELLO)),
    "text": made(SMALL, max_tokens=4).complete("Hello").text,
    "called": str(caller.predict_and_call([FunctionTool.from_defaults(look)], "Hello")),
}
print(json.dumps(found))
