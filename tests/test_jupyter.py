"""The protocol as Jupyter's own test suite for kernels sees it."""

import jupyter_kernel_test


class TestForklab(jupyter_kernel_test.KernelTests):
    kernel_name = "forklab"
    language_name = "rust"
    file_extension = ".rs"
    code_hello_world = 'print!("hello, world");'
    code_stderr = 'eprint!("to stderr");'
    code_generate_error = 'panic!("as asked for");'
    code_execute_result = [
        {"code": "1 + 2", "result": "3"},
        {"code": '"a".repeat(3)', "result": '"aaa"'},
    ]
    completion_samples = [{"text": "std::process::CommandA", "matches": {"CommandArgs"}}]
    complete_code_samples = ["let x = 1;", "fn f() -> i32 {\n    1\n}", 'println!("{}", 1)']
    incomplete_code_samples = ["fn f() {", 'println!("', "let x = (1,"]
    invalid_code_samples = []
    code_inspect_sample = "String"
    supported_history_operations = ("tail", "range", "search")
    code_history_pattern = "1*2"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # The suite asks for completions first, and allows them less time than a cold engine may take.
        cls.kc.execute_interactive("let warm = 1;", timeout=120)
