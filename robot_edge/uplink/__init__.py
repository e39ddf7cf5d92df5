"""What goes up: the outbox, its pace, its receipts."""
