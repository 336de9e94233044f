"""What an update of CQL costs, beside other programs and beside what the machine allows.

``python run.py benchmark`` runs it. Each contestant lives in a process of its own; short blocks of
updates alternate, so that a busy machine hits all of them alike, and processor time is compared.
"""
