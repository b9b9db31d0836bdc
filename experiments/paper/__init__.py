"""The paper, reproduced: ``protocol`` defines the runs of each figure, ``report`` and ``figures`` show the results."""
