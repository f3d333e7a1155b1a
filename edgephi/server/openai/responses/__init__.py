"""/v1/responses: its request, its response, the events of its stream, and what is kept of them."""
