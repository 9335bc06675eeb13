"""What a prompt file says, and all that follows from it, without an engine.

formats.py reads it; rendering.py and tokens.py make of it and a query with documents the ids that an engine gets; scoring.py
makes of what the engine read at the answer position a score; evidence.py has the grammar and the parser of what is written
after it; identity.py names it all in answers.
"""
