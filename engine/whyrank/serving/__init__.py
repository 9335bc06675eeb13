"""The HTTP server: routes inside `vllm serve`, or on plain uvicorn for checkpoints that need no vLLM.

launch.py         `whyrank serve`: defaults for reranking, then vLLM's own server
plugin.py         what vLLM loads: its engine client becomes a Service
standalone.py     the same routes on plain uvicorn, without vLLM
middleware.py     API keys, for every route of the process
guarded_route.py  what happens around every handler of ours: key, body, callers who leave, errors, headers
http_errors.py    exceptions as status, kind and message
responses.py      JSON, made beside the event loop where it is large
context.py        service, key and id of a request
bodies.py         request bodies: read at a minimum pace, and parsed without blocking the event loop
connections.py    limits for slow headers and for readers who do not read
service.py        one Reranker with admission, health and metrics around it: all that routes may call
admission.py      how much is let in at once (pure)
instance.py       the id that servers share when they give the same scores
handlers.py       from a checked body to its ranking
native/           whyrank's own routes
compat/           the APIs of other rerankers, a file each
router.py         all of these
examples.py       what OpenAPI shows as bodies of requests
metrics.py        whyrank_* for Prometheus
playground/       one page for people
"""
