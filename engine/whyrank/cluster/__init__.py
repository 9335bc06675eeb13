"""Many engines behind one address, on Ray.

remote.py     a runtime whose engines are elsewhere: tiles of prompts go to replicas, evidence to where its tile was read
replica.py    one engine, as a replica runs it
autoscaling.py  how many replicas there should be
ray_serve.py  the application for Ray Serve: an ingress that speaks all HTTP routes, and replicas
ray_data.py   a dataset of queries with their documents, reranked by a pool of engines
"""
