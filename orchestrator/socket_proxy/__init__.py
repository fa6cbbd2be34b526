"""The Docker Engine's socket for an orchestrator that is not to be root on the host.

A process of its own holds the real socket. It passes on what the orchestrator needs, for containers
of one installation, and makes no container but a runner, exactly as this version makes one.
"""
