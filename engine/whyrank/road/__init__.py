"""The stretches of the road in reranker.py, in order: reading.py scores every document, slice by slice; writing.py continues
the best of them. scoresheet.py is the state that they share, deadline.py the moment at which all of it ends.
"""
