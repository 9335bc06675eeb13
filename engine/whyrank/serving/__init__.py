"""whyrank over HTTP: routes inside `vllm serve`, or on plain uvicorn for checkpoints that need no vLLM.

launch.py      `whyrank serve`: defaults for reranking, then vLLM's own server
plugin.py      what vLLM loads: its engine client becomes a Service
service.py     one Reranker with admission, health and metrics around it: all that routes may call
admission.py   how much is let in at once (pure)
door.py        what every route has in front: key, size of the body, errors, freeing the engine when the caller leaves
router.py      the native routes
dialects.py    the wire shapes of others, as thin translators
metrics.py     whyrank_* for Prometheus
playground/    one page for people
"""
