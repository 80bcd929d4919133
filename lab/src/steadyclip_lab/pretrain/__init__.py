"""`steadyclip pretrain`: a small CLIP from image-text pairs. ``config`` is free of torch, ``stages`` is not."""
