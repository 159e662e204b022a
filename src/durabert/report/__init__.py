"""Reports: one HTML file of an experiment that opens anywhere, without a network."""
