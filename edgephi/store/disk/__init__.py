"""The store on its disk: where things lie, written so that a power cut halves nothing."""
