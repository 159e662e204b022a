"""The parsing of commands: each works in a module of ``durabert.cli``, which is imported when it runs."""
