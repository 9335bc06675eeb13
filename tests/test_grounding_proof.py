"""What a proof may add or leave out, each with a change that looks like it and is none."""

from __future__ import annotations

import pytest

from whyrank.grounding import ground

LAKE = "The lake, which froze in 1987, lies north of the town; its water is clear, and swans live on it."

PROVEN = [
    # articles and "also"
    ("A roof of the mill was also mended.", "The roof of the mill was mended."),
    ("Le toit du moulin est en ardoise.", "Ce toit du moulin est en ardoise."),
    ("El tejado es de pizarra.", "Este tejado es de pizarra."),
    ("该办法自公布之日起施行。", "本办法自公布之日起施行。"),
    # connectors where a clause or sentence begins
    ("The mill is old, but the roof is new.", "The mill is old. The roof is new."),
    ("The mill is old. The roof is new.", "The mill is old; the roof, however, is new."),
    ("The mill is old; the roof is new.", "The mill is old, whereas the roof is new."),
    ("Die Mühle ist alt, und das Dach ist neu.", "Die Mühle ist alt; das Dach ist neu."),
    ("The roof is new: the mill burned down.", "The roof is new, because the mill burned down."),
    # asides
    ("The lake lies north of the town.", LAKE),
    ("Swans live on it.", LAKE),
    ("Its water is clear.", LAKE),
    ("The Harl mill is old.", "The Harl mill (built by monks) is old."),
    ("La piscine est vide.", "La piscine, fermée depuis longtemps, est vide."),
    # other clauses
    ("The fee is 9 euros.", "The fee is 9 euros, and tickets may be bought online."),
    ("Tickets may be bought online.", "The fee is 9 euros, and tickets may be bought online."),
    ("The pool is heated.", "The pool is heated, which costs the town a lot."),
    ("The pool is heated; it costs the town a lot.", "The pool is heated, which costs the town a lot."),
    # names
    ("Jonas Brandt sold the mill.", "Brandt sold the mill. He was born as Jonas Brandt."),
    # spelling and signs
    ("The mill is not old.", "The mill isn't old."),
    ("The mill cannot be moved.", "The mill can't be moved."),
    ("It takes 9 to 11 days.", "It takes 9–11 days."),
    ("The room is 3 by 4 m.", "The room is 3 × 4 m."),
    ("It costs 9 euros a month.", "It costs €9 per month."),
    ("It was as cold as -5 °C.", "It was as cold as −5 °C."),
    # a language without tables
    ("Młyn zbudował w 1850 roku młynarz.", "Młyn zbudował w 1850 roku młynarz."),
]

NOT_PROVEN = [
    # articles that say how many, or, in German, who does what
    ("Few members voted.", "A few members voted."),
    ("Den Wirt verklagt der Bauer.", "Der Wirt verklagt der Bauer."),
    # words that only look like connectors
    ("The mill is old or the roof is new.", "The mill is old and the roof is new."),
    ("The roof is new, because the mill burned down.", "The roof is new. The mill burned down."),
    # what limits
    ("Entry is free.", "Entry is free, and only for children."),
    ("Entry is free.", "Entry is free, but not on Sundays."),
    ("Entry is free.", "Entry is free; on Sundays it costs 9 euros."),
    ("Entry is free.", "Entry is free for children."),
    ("Entry is free.", "In winter, entry is free."),
    ("Tickets are sold.", "If it rains, the pool is closed, and tickets are sold."),
    ("The pool is open.", "The pool, unless it rains, is open."),
    ("The pool is open.", "The pool, with the owner's consent, is open."),
    ("The pool is open.", "The pool (on Sundays) is open."),
    ("On Sunday the pool is closed.", "On Sunday, 5 May, the pool is closed."),
    ("Mitglieder zahlen nichts.", "Mitglieder, die studieren, zahlen nichts."),
    # joins
    ("Ivo Stark repaired the tower, rebuilt the mill.", "Ivo Stark repaired the tower, Dora Finch, rebuilt the mill."),
    (
        "El combustible corre a cargo de la cooperativa, de la empresa.",
        "El combustible corre a cargo de la cooperativa, y el mantenimiento, de la empresa.",
    ),
    ("The kit has two tools: a saw, and a drill.", "The kit has two tools: a saw, a hammer, and a drill."),
    ("Rui Pinto handles the vouchers.", "Rui Pinto handles the rebooking; Solveig Aas the vouchers."),
    # names
    ("Jonas Brandt sold the mill.", "Brandt sold the mill. Jonas Brandt and Emil Brandt are brothers."),
    # order, voice and prepositions
    ("The museum was lent the map.", "The museum lent the map."),
    ("The letter was sent by Anna.", "The letter was sent to Anna."),
    ("Carl sued Anna.", "Anna sued Carl."),
    # signs and values
    ("It was as cold as 5 °C.", "It was as cold as -5 °C."),
    ("Add > 5 g of salt.", "Add < 5 g of salt."),
    ("The wall is 22 metres.", "The wall is 22."),
    ("It costs 9 euros.", "It costs 9 euros per kilogram."),
    ("It was opened on 4 May 1999.", "It was opened on 4 May."),
    # code is compared to the letter
    ("See studie.example/schlafen for more.", "See studie.example/schlafe for more."),
]


@pytest.mark.parametrize(("evidence", "document"), PROVEN)
def test_what_changes_nothing_is_supported(evidence: str, document: str) -> None:
    assert {sentence.verdict for sentence in ground(evidence, document).sentences} == {"supported"}


@pytest.mark.parametrize(("evidence", "document"), NOT_PROVEN)
def test_what_may_change_something_is_not_supported(evidence: str, document: str) -> None:
    assert "supported" not in {sentence.verdict for sentence in ground(evidence, document).sentences}
