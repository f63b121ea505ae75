"""Keep the truths that all workers must share."""
