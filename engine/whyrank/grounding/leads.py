"""Reporting leads such as "States that": they are about the document; the claim is what follows them."""

from __future__ import annotations

import re

__all__ = ["end_of_lead"]

# Only verbs that neither deny nor weaken what follows, and only with a document as their subject.
_ENGLISH = (
    r"(?:(?:the|this) (?:document|text|passage|article|page|excerpt|source) )?(?:also |then )?"
    r"(?:states?|says?|notes?|explains?|reports?|mentions?|adds?|writes?|indicates?|specifies|specify|points? out|shows?|"
    r"confirms?|warns?|tells (?:us|you|readers)|makes? (?:it )?clear)(?: that\b,?|:)|(?:gives|lists|names|describes):"
)
_GERMAN = (
    r"(?:(?:das|dieses) dokument |(?:der|dieser) (?:text|artikel|abschnitt) )?(?:sagt|besagt|nennt|erklärt|erläutert|berichtet|"
    r"erwähnt|schreibt|zeigt|gibt an|stellt fest|weist darauf hin)(?:, dass\b|:)"
)
_FRENCH = (
    r"(?:(?:le|ce) (?:document|texte|passage) |l'article |cet article )?(?:indique|précise|dit|explique|affirme|mentionne|"
    r"ajoute|signale|note|rappelle|écrit)(?: que\b| qu['’]| :|:)"
)
_SPANISH = (
    r"(?:(?:el|este) (?:documento|texto|pasaje|artículo) )?(?:indica|dice|explica|señala|afirma|menciona|añade|precisa|informa|"
    r"especifica|escribe)(?: que\b|:)"
)
_CHINESE = (
    r"(?:本?文中?|该文|文档|文件|文章)?(?:明确)?"
    r"(?:指出(?:了)?[：:，,]?|(?:说明|表示|提到|写明|注明|写道|介绍|解释|列出|给出|称|说)(?:了)?[：:，,])"
)
_LEAD = re.compile(rf"(?:{_ENGLISH}|{_GERMAN}|{_FRENCH}|{_SPANISH}|{_CHINESE})\s*[\"“„«「]?", re.IGNORECASE)


def end_of_lead(text: str, start: int, end: int) -> int:
    """Where the claim of the sentence begins: at `start`, unless the sentence has such a lead and something after it."""
    lead = _LEAD.match(text, start, end)
    return lead.end() if lead and text[lead.end() : end].strip(" .;:!?。") else start
