"""Prompt formats and everything derived from them, without an engine.

formats.py reads prompt files; rendering.py and tokens.py turn a format, a query and documents into the token ids for the
engine, and listwise.py does so for prompts of several documents; scoring.py turns the labels' values at the answer position
into a score; evidence.py has the grammar and the parser of the evidence that follows; identity.py names the prompt in
responses.
"""
