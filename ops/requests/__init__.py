"""Single requests from the operator's and the client's side: how one stands, and its end."""
