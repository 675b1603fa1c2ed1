"""What training costs each party, from shapes alone: a step, a run, and where to cut."""
