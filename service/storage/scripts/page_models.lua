-- List models, newest first.
-- KEYS[1]  sorted set  models by time of creation
-- KEYS[2]  sorted set  those of them that are left out (optional)
-- ARGV[1]  how many at most
-- ARGV[2]  the id after which to go on, or '' for the beginning
-- Returns  the ids, or false if ARGV[2] names none of the list.
-- Invariant: read at one moment, so that no model created meanwhile shifts the page.
local limit = tonumber(ARGV[1])
local function is_left_out(id)
  return KEYS[2] and redis.call('ZSCORE', KEYS[2], id)
end

local start = 0
if ARGV[2] ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[2])
  if not rank or is_left_out(ARGV[2]) then
    return false
  end
  start = rank + 1
end
local ids = {}
repeat
  local some = redis.call('ZREVRANGE', KEYS[1], start, start + limit - 1)
  start = start + #some
  for _, id in ipairs(some) do
    if #ids < limit and not is_left_out(id) then
      table.insert(ids, id)
    end
  end
until #some < limit or #ids == limit
return ids
