"""Named methods, one short file each: which segmenter, scorer, selector and renderer make it up."""
