"""The paper, reproduced: ``protocol`` says what each figure needs, ``report`` and ``figures`` what comes of it."""
