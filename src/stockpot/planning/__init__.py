"""How an expression is computed: every tensor's inputs, parameters, passes and place in the output."""
