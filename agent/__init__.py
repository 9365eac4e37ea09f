"""The node's side of Aliquot: the ``aliquot`` command."""
