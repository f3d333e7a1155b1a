"""Chat templates in the styles in which models are published, each written for these tests."""

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou answer in one sentence.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = '<<SYS>>\\n' ~ messages[0]['content'] | trim ~ '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token ~ '[INST] ' ~ (system if loop.first else '') -}}
        {{- message['content'] | trim ~ ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ message['content'] | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
PHI_3 = (
    "{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] ~ '<|end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI_3_WITHOUT_SYSTEM = (
    "{% for message in messages %}{% if (message['role'] == 'user') %}"
    "{{ '<|user|>' + '\\n' + message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n' }}"
    "{% elif (message['role'] == 'assistant') %}{{ message['content'] + '<|end|>' + '\\n' }}{% endif %}"
    "{% endfor %}"
)
PHI_4 = (
    "{% for message in messages %}{% if message.role == 'system' %}"
    "{{ '<|im_start|>system<|im_sep|>' + message.content + '<|im_end|>' }}{% elif message.role == 'user' %}"
    "{{ '<|im_start|>user<|im_sep|>' + message.content + '<|im_end|>' }}"
    "{% elif message.role == 'assistant' %}"
    "{{ '<|im_start|>assistant<|im_sep|>' + message.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role here') }}"
    "{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
WITH_TOOLS = """\
{%- set state = namespace(answers=0) %}
{{- bos_token }}{{- "<|system|>Today is " + strftime_now("%d %b %Y") + ".\\n" }}
{%- if tools is not none %}
    {{- "Functions:\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}{{- "\\n" + (tool.function | tojson) }}
        {%- if loop.index == 2 %}{% break %}{% endif %}
    {%- endfor %}
{%- endif %}
{{- "<|end|>" }}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set state.answers = state.answers + 1 %}
        {%- generation %}
            {{- "<|assistant|>" + message.content.split("</think>")[-1] + "<|end|>" }}
        {%- endgeneration %}
    {%- else %}
        {{- "<|" + message["role"] + "|>" + message["content"] + "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if documents %}{{ raise_exception("no documents") }}{% endif %}
{%- if add_generation_prompt %}{{ "<|assistant|>" + "#" * state.answers }}{% endif %}
"""
PHI_4_MINI = (
    "{% for message in messages %}{% set tools = message.get('tools') %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'system' and tools is not none %}{{ '<|tool|>' ~ tools ~ '<|/tool|>' }}"
    "{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI_4_MINI_REASONING = """\
{{ '<|system|>You reason step by step, in numbers.' }}
{%- for message in messages if message['role'] == 'system' %}
    {{- ' ' + message['content'] }}
    {%- if 'tools' in message and message['tools'] is not none %}
        {{- '<|tool|>' + message['tools'] + '<|/tool|>' }}
    {%- endif %}
{%- endfor %}
{{- '<|end|>' }}
{%- for message in messages if message['role'] != 'system' %}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""
LLAMA_3 = """\
{{- bos_token }}
{%- if date_string is not defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}{{- "Environment: ipython\n" }}{% endif %}
{{- "Today: " + date_string + "\n\n" + system + "<|eot_id|>" }}
{%- if tools is not none %}
    {{- "<|start_header_id|>user<|end_header_id|>\n\nThe functions that you may call:\n\n" }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- "\n\n" }}{% endfor %}
    {{- messages[0]["content"] | trim + "<|eot_id|>" }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if "tool_calls" in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception("One call at a time!") }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- "<|start_header_id|>assistant<|end_header_id|>\n\n" }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\n\n" }}
        {{- message["content"] | trim + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\n\n" }}{% endif %}
"""
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and message == asked[-1] %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() if key != "return" %}
                    {{- '"' + key + '": ' + (value | tojson) + ("" if loop.last else ", ") }}
                {%- endfor %}
                {{- "}}" + ("" if loop.last else ", ") }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + (system + "\n\n" if loop.last and system is defined else "") }}
        {{- message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
            {{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message["content"] | string }}
        {{- ', "call_id": "' + message["tool_call_id"] + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user, assistant and tool, after a system message!") }}
    {%- endif %}
{%- endfor %}
"""
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{% endfor %}
    {{- '\\n</tools>\\n\\n' }}
    {{- '<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set place = namespace(last=messages | length - 1, searched=true) %}
{%- for message in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if place.searched and message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set place.searched = false %}
        {%- set place.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > place.last and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n' if not loop.first or content }}
            {%- set call = call.function if call.function else call %}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' }}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
ALPACA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '### Response:\\n' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)

SHAPES = {
    "ChatML": CHATML,
    "Llama 2": LLAMA_2,
    "Zephyr": ZEPHYR,
    "Phi-3": PHI_3,
    "Phi-3 without system": PHI_3_WITHOUT_SYSTEM,
    "Phi-4": PHI_4,
    "Gemma": GEMMA,
    "Phi-4-mini": PHI_4_MINI,
    "Phi-4-mini-reasoning": PHI_4_MINI_REASONING,
    "Llama 3": LLAMA_3,
    "Mistral": MISTRAL,
    "Qwen": QWEN,
    "with tools": WITH_TOOLS,
    "Alpaca": ALPACA,
}
