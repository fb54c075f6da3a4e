"""`report.html`: a run's figures as one page that loads no other file. No torch."""
