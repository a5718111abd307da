"""Chat templates: how a conversation is written as text, by name or as the models have it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from stockpot.vocabulary.model import Vocabulary

__all__ = ["TEMPLATES", "commonest", "foreign_tokens"]

_CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_ALPACA = """\
{%- set start = 'Below is an instruction that describes a task. \
Write a response that appropriately completes the request.' -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set start = messages[0]['content'] -%}
{%- endif -%}
{{- start + '\\n\\n' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '### Response:\\n' + message['content'] + (eos_token or '') + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""

_EXAONE = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '[|system|][|endofturn|]\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '[|' + message['role'] + '|]' + message['content'] -}}
{%- if message['role'] != 'user' -%}
{{- '[|endofturn|]' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '[|assistant|]' -}}
{%- endif -%}
"""

_LLAMA3 = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

_MISTRAL = """\
{{- bos_token or '' -}}
{%- set told = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set told.system = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '[INST] ' + told.system + message['content'] + ' [/INST]' -}}
{%- set told.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{- ' ' + message['content'] | trim + (eos_token or '') -}}
{%- endif -%}
{%- endfor -%}
"""

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {"alpaca": _ALPACA, "chatml": _CHATML, "exaone": _EXAONE, "llama3": _LLAMA3, "mistral": _MISTRAL}
)
"""The templates that have a name."""

_MARK = re.compile(r"<\|[^|<>]{1,40}\|>|\[\|[a-z]{1,20}\|\]|\[/?INST\]")


def commonest(templates: Sequence[str | None]) -> str | None:
    """The template that most have, the first of equals; None when none has one.

    >>> commonest(["a", None, "b", "b"])
    'b'
    """
    given = [template for template in templates if template]
    return max(dict.fromkeys(given), key=given.count, default=None)


def foreign_tokens(template: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Marks of turns in ``template`` that are no tokens of ``vocabulary``: it would cut them into pieces."""
    return tuple(dict.fromkeys(mark for mark in _MARK.findall(template) if mark not in vocabulary.ids))
