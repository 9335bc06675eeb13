"""The HTTP server: routes inside `vllm serve`, or on plain uvicorn for checkpoints that need no vLLM.

launch.py         `whyrank serve`: defaults for reranking, then vLLM's own server
plugin.py         what vLLM loads: its engine client becomes a Service
standalone.py     the same routes on plain uvicorn, without vLLM
middleware.py     API keys, for every route of the process
guarded_route.py  what every route of ours has in front: admission, reading the body, errors, callers who leave
bodies.py         request bodies: read at a minimum pace, and parsed without blocking the event loop
connections.py    limits for slow headers and for readers who do not read
service.py        one Reranker with admission, health and metrics around it: all that routes may call
admission.py      how much is let in at once (pure)
handlers.py       what all routes share: from requests to rankings
router.py         the native routes, and the list of all routers
compat.py         the routes of other APIs
dialects.py       request and response shapes of other APIs (pure)
openapi.py        what OpenAPI shows: shapes of answers and errors, examples of requests
metrics.py        whyrank_* for Prometheus
playground/       one page for people
"""
