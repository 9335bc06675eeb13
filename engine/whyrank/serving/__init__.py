"""The HTTP server: routes inside `vllm serve`, or on plain uvicorn for checkpoints that need no vLLM.

launch.py         `whyrank serve`: defaults for reranking, then vLLM's own server
plugin.py         the plugin that vLLM loads: wraps its engine client in a Service
standalone.py     the same routes on plain uvicorn, without vLLM
middleware.py     API keys, for every route of the process
guarded_route.py  around every handler of ours: key, body, disconnects, errors, headers
http_errors.py    maps exceptions to status, kind and message
responses.py      JSON responses, encoded off the event loop if large
context.py        service, key and id of a request
bodies.py         request bodies: read at a minimum pace, and parsed without blocking the event loop
connections.py    time limits for slow headers and slow readers
service.py        one Reranker with admission, health and metrics around it: all that routes may call
admission.py      how much work is let in at once (pure)
instance.py       the instance id, shared by servers that give the same scores
handlers.py       from a checked body to its ranking
native/           whyrank's own routes
compat/           the APIs of other rerankers, one file each
router.py         all routers
examples.py       example request bodies for OpenAPI
metrics.py        whyrank_* for Prometheus
playground/       a web page for trying it out
"""
