"""Bodies of the HTTP API: requests are checked against these models, answers are documented by them.

Answers are written as plain dictionaries by the ``*_document`` functions beside the models, since
building models costs more than the rest of a request; tests hold every answer against its model.
"""
