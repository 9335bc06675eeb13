"""Judged data in, numbers that can be trusted out. A laptop without an engine is enough for all but the reranking itself.

data, corpus, trec, files    reading judged data        fetch                   bringing them from elsewhere
run, results, systems        reranking them into a      measures, significance  what a ranking is worth
                             result file                consistency             whether a table can be true at all
scorecard, report            one result file           compare, compare_report two result files
html, charts                 what both reports share    calibrate               thresholds, and what scores mean
"""

from whyrank.evaluation.presets import HOUSE

__all__ = ["HOUSE"]
