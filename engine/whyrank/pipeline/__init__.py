"""The steps of a request, in the order of `Reranker.events`.

scorer.py               encodes the documents and scores them, slice by slice
request_state.py        the results of each document so far; shared by the other two
evidence_generator.py   continues the best documents, and checks what was generated against their text
verifier.py             has a model judge sentences that the comparison of words left unverified
listwise.py             in place of all these, orders documents that are in one prompt
deadline.py             when all of it must end
"""
