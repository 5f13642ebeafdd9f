#pragma once
// The filters, tests, methods and global functions of chat templates.

#include <string_view>

#include "text/jinja_runtime.h"

namespace millrace::text {

// Index into the table of filters or tests, -1 for an unknown name.
int FindFilter(std::string_view name);
int FindTest(std::string_view name);

// `args.positional[0]` is the input. On an error the runtime has failed and the result is
// undefined.
Value CallFilter(Runtime& rt, int filter, CallArgs& args);
bool CallTest(Runtime& rt, int test, CallArgs& args);

// The method `name` of a value of this kind, as an index into the table of methods; -1 for none.
int FindMethod(Kind kind, std::string_view name);
Value CallMethod(Runtime& rt, int method, const Value& self, CallArgs& args);

// The global function `name`, -1 for none.
int FindGlobal(std::string_view name);
Value CallGlobal(Runtime& rt, int function, CallArgs& args);

// Filters over sequences, rows of the table of filters.
namespace sequence_filters {
Value DictItems(Runtime& rt, CallArgs& args);
Value DictSort(Runtime& rt, CallArgs& args);
Value First(Runtime& rt, CallArgs& args);
Value JoinItems(Runtime& rt, CallArgs& args);
Value Last(Runtime& rt, CallArgs& args);
Value Map(Runtime& rt, CallArgs& args);
Value Max(Runtime& rt, CallArgs& args);
Value Min(Runtime& rt, CallArgs& args);
Value Reject(Runtime& rt, CallArgs& args);
Value RejectAttr(Runtime& rt, CallArgs& args);
Value Reverse(Runtime& rt, CallArgs& args);
Value Select(Runtime& rt, CallArgs& args);
Value SelectAttr(Runtime& rt, CallArgs& args);
Value Sort(Runtime& rt, CallArgs& args);
Value Sum(Runtime& rt, CallArgs& args);
Value ToList(Runtime& rt, CallArgs& args);
Value Unique(Runtime& rt, CallArgs& args);
}  // namespace sequence_filters

}  // namespace millrace::text
