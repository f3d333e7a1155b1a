"""`edgephi serve`: the OpenAI API over HTTP, with the engine in a process of its own.

A request's way, one file each: `app` (routes) reads it as a type of `openai_requests`, `admission` lets it
wait in a bounded queue, `supervisor` hands it to the engine's process (`engine_process`, and
`edgephi.server.engine.worker` inside it; `messages` are what those two say to each other), and `answers`
writes what comes back as `openai_responses`. Around all of it stands `guard`. The packages of the extra
`serve` are needed for everything in here.
"""
