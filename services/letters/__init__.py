"""Dead letters as people use them: listed, shown, redriven, discarded. A letter is named ARM/NUMBER."""
