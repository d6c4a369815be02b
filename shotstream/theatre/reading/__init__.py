"""The reader of the theatre: what plain English captions say about a shot."""
