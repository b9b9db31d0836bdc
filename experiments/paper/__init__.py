"""
The paper, reproduced: ``python -m experiments.paper fig1`` trains what the figure needs, draws it, and compares the
results with the paper's claims.

``protocol`` has the paper's settings and what each figure needs, ``measurements`` what is measured besides returns,
``report`` the comparison, ``figures`` the pictures.
"""
