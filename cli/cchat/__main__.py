"""`python -m cchat`."""

from cchat.main import main

main()
