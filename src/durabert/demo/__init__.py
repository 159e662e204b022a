"""Reviews written for durabert, to try it on without data of one's own."""
