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
    "with tools": WITH_TOOLS,
    "Alpaca": ALPACA,
}
