"""Who may do what on the broker: the rights as data, ACLs and users made of them, and the broker's own side."""
