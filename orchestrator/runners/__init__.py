"""Container engines behind one protocol, and the wire to what runs in them."""
