"""
The paper, reproduced: ``sb3-nrl reproduce fig1`` trains what the figure needs, draws it, and says where the result and
the paper's claims agree.

``protocol`` has the paper's settings and what each figure trains; ``runs`` and ``measurements`` what a run does and the
file that it leaves; ``plan`` and ``schedule`` which runs are to do, and doing them; ``summary``, ``findings``,
``report`` and ``figures`` what comes of them.
"""
