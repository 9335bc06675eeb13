"""The APIs of other rerankers. A file each, with its request, response, errors and routes, which can be read on its own.

Each has a mount of its own (`/cohere/v2/rerank`, `/jina/v1/rerank`, `/voyage/v1/rerank`, `/tei/rerank`: the base URL of its
client plus our prefix), and the places where clients look without one: `/v2/rerank` and `/rerank`. `/v1/rerank`, which several
of them claim, is the native route: its response has the keys of Jina's, Cohere's v1 and vLLM's together.

Options of whyrank may be given by their native names, evidence comes back as extra keys, and headers name the documents that
were cut or have no score: rows.py.
"""
