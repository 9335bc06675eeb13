"""First stages: what finds the candidates that are reranked. For experiments on one machine; a search engine is another thing.

bm25     shared words, by bm25s       passages     the texts and queries of a BEIR folder
dense    embeddings, compared exactly  first_stage  one of them or both, written as a TREC run
"""
