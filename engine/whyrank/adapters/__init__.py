"""whyrank inside the frameworks that people have, each a few lines over the client.

base.py                   which reranker an adapter calls, and with which options (shared)
metadata.py               a result row as metadata (shared)
langchain.py              WhyrankCompressor: a document compressor
llama_index.py            WhyrankPostprocessor: a node postprocessor
haystack.py               WhyrankRanker: a ranker component
rerankers.py              WhyrankRanker: rank() and score() of the rerankers library
sentence_transformers.py  WhyrankCrossEncoder: predict() and rank() of a CrossEncoder
mteb.py                   WhyrankCrossEncoder: a cross-encoder that mteb.evaluate takes
embed_anything.py         Reranker: EmbedAnything's, on an engine in this process
mcp.py                    tools for agents (`whyrank mcp`)

Each imports its framework. If that is not installed, the error names the extra to install.
"""
