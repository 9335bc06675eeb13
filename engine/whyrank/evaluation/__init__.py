"""Judged data in, numbers that can be trusted out. A laptop without an engine is enough for all but the reranking itself.

data, corpus, trec, files    reading judged data        fetch                   bringing them from elsewhere
run, results, targets        reranking them into a      measures, significance  what a ranking is worth
                             result file                consistency             whether a table can be true at all
scorecard, report, charts    one result file, told      compare, calibrate      two result files; thresholds
"""
