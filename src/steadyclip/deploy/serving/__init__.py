"""``serve``: a predictor behind HTTP (extra ``serve``)."""
