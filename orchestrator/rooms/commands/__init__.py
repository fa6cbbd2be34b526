"""What each room command does; `table` names them all."""
